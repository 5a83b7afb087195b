"""Media readers: files in, arrays in the model's own shape out. Nothing here touches llama.cpp."""

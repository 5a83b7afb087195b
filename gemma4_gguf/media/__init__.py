"""Files in, arrays in the model's own shape out: pictures, sounds, videos. Nothing here touches llama.cpp."""

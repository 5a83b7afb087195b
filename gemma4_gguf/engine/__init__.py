"""The only place that touches llama.cpp: library, files, model, context, sampler, projector."""

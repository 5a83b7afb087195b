"""Inference engine: the only place that touches llama.cpp. Library, model, context, sampler, projector."""

"""The bill as LiteLLM's users ask for it: who may see what of it, and the shapes of its rows and reports."""

"""The only door from a container to the model, and the offline model behind it."""

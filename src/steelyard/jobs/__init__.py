"""Long work of customers: files in, batches of requests, files out. Every line of it is a paid request of the flow."""

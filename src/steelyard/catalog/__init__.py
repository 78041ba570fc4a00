"""What is offered and at what price: models, offers, price and cost books."""

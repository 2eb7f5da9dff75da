"""Routes and what they ask: the model, the matcher, and the decision."""

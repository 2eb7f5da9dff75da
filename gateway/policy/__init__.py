"""Routes and access rules: the model, the matcher, and the decision."""

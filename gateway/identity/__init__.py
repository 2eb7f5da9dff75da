"""Who is calling: claims of a verified token, the user record behind them, and the principal that policy decides on."""

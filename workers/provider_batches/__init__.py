"""Lines of batches at the providers' own batch APIs, which take about half the price for up to a day's patience."""

"""Sources, labels, splits and summary of make_imagery_csv.py."""

"""What can be tested without a GPU: `python3 -m unittest discover -s benches/peers/tests -t benches`."""

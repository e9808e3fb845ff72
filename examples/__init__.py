"""Small programs that show one thing each. The tests run them."""

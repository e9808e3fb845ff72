"""Small programs that show one thing each; the tests run them."""

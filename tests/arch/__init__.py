"""What the code base promises about its own shape, checked by syntax tree and text; nothing here runs the product."""

"""The tests. ``README.md`` beside this file says what each layer proves."""

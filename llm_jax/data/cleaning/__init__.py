"""The cleaning room: text in; better text, or the reason to throw it out. No file is read."""

"""The built book in a browser: pages, keyboard, simulator, explorer. A package, so that its conftest is not the one above it."""

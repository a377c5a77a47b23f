"""What one does with a trained run: pictures in; masks, files, a page or an ONNX model out.

Import the modules; this one imports nothing."""

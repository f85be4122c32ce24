"""The bundled model: a folder of data, read like any other checkpoint."""

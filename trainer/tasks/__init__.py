"""One package per kind of training: model, data, loss and metrics, export, report pages."""

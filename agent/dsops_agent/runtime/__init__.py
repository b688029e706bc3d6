"""The data process: loads models, answers inference, watches drift, keeps samples."""

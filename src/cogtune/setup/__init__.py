"""A new experiment: from a folder of clips to lines of config/config.yaml."""

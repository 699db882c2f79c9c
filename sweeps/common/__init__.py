"""What the study scripts share: options, the way from a command line to a finished study, series of studies."""

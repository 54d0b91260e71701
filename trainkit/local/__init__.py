"""The service's side of the contract, on this machine: hosts, config files, channels, stop, archives, status."""

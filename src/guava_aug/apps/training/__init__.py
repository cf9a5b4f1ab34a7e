"""Training of GUAVA networks on synthetic subjects or tracked videos. Nothing but the CLI imports this."""

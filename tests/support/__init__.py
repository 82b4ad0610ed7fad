"""What several tests share: stand-ins for the edges that speak the real protocol."""

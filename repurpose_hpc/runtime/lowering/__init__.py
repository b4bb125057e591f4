"""From operations to the steps that compute them on a rank."""

"""Keys to results of earlier builds."""

"""Models that look suspicious and are healthy: the guard stays silent."""

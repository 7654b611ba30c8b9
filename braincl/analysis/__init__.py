"""What a fitted encoder says: predictions, maps, attribution, text queries, image selection."""

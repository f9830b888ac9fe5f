"""Reader study: blinded comparison of results by human readers, from the cases to the analysis."""

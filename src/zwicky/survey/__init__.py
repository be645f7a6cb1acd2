"""A survey: score many cutouts, choose candidates, search for similar ones, estimate purity and completeness."""

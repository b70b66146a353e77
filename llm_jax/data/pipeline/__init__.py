"""From raw files to cleaned, filtered and deduplicated documents; `pipeline.run.clean` is it."""

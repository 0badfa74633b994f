"""The WAL archive: in, indexed, judged, out."""

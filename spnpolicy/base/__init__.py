"""What everything else stands on: errors, strict reading, files, random streams, several processes."""

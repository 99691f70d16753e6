"""The recording half: decorated calls become spans in a store."""

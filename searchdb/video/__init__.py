"""Reads frames of videos in a process of its own, at chosen times, without holding a video in memory."""

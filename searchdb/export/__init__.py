"""Exports images and their metadata: tables of rows, folders of files, contact sheets."""

"""What is written in image files, and in the files beside them, about the image: titles, keywords, ratings, times."""

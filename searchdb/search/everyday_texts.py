"""The everyday texts: queries for what images commonly show, by which relevance and recall are measured."""

EVERYDAY_TEXTS = (
    "a person", "a man", "a woman", "a child", "a crowd", "a face", "a hand", "a dog", "a cat", "a bird", "a horse",
    "a cow", "a fish", "an insect", "a tree", "a flower", "a leaf", "a forest", "a mountain", "a river", "a lake",
    "the sea", "a beach", "a desert", "a field", "a garden", "snow", "the sky", "clouds", "the sun", "the moon",
    "night", "rain", "fog", "a city", "a street", "a road", "a bridge", "a building", "a house", "a church", "a room",
    "a kitchen", "a bed", "a table", "a chair", "a window", "a door", "stairs", "a car", "a bus", "a bicycle",
    "a train", "an airplane", "a boat", "food", "fruit", "vegetables", "bread", "a cup of coffee", "a bottle",
    "a book", "a computer", "a telephone", "written text", "a map", "a drawing", "a painting", "a statue", "a toy",
    "a ball", "sports", "a musical instrument", "clothes", "shoes", "a hat", "a bag", "a tool", "a machine", "fire",
    "a lamp", "glass", "metal", "wood", "stone", "paper",
)  # fmt: skip
"""What images commonly show: every collection shows some of it, and lacks much of it."""

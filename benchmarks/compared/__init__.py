"""What is trained and who trains it: models, cases, contenders."""

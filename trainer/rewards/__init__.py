"""How good a completion is: functions of a prompt and a completion, shipped or a user's own."""

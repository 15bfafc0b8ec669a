"""The labelling page: keyboard first, and it works without JavaScript. See docs/preferences.md."""

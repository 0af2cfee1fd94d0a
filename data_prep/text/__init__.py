"""What is done to the text of a document: prose out of markup, sentences out of prose."""

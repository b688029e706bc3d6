"""The documents of a bundle: bill of materials, provenance, model card. They are for people; devices ignore them."""

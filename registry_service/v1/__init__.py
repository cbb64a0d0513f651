"""What V1 registries speak of: values, names, images and chains of images. Pure."""

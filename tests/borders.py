"""Borders of made-up countries, as an operator would name them."""

import json

COUNTRIES = {
    "Westland": [(0, 40, 10, 50)],
    "Eastland": [(10, 40, 20, 50)],
    "Islands on both sides of the antimeridian": [(175, -20, 180, -15), (-180, -20, -176, -17)],
    "Two far parts": [(50.00000001, 0, 52, 2), (100, 0, 101, 1)],
}
"""Name to rectangles: west, south, east, north in degrees."""

BOXES = [(0, 40, 10, 50), (10, 40, 20, 50), (175, -20, -176, -15), (50, 0, 101, 2)]
"""What is told of each country, in degrees."""


def ring(west, south, east, north):
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def feature(*rectangles):
    return {
        "type": "Feature",
        "properties": {},
        "geometry": {"type": "MultiPolygon", "coordinates": [[ring(*each)] for each in rectangles]},
    }


def collection(*features):
    return json.dumps({"type": "FeatureCollection", "features": list(features)}).encode()


def borders():
    return collection(*(feature(*rectangles) for rectangles in COUNTRIES.values()))

import csv
import io

from dlmo.study.results import Failure, Run


def test_the_csv_tells_why_a_recipe_has_no_numbers():
    failure = Failure("resnet8 > int8", "FIQ", "resnet8", 1, "RuntimeError: no, such luck")
    run = Run("", {}, "cpu", {}, {}, (), None, (), (), (), (), (), failures=(failure,))
    (row,) = csv.DictReader(io.StringIO(run.to_csv()))
    assert {name: text for name, text in row.items() if text} == {
        "recipe": "resnet8 > int8", "setup": "FIQ", "network": "resnet8", "seed": "1",
        "error": "RuntimeError: no, such luck",
    }  # fmt: skip

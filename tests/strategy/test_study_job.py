"""What `study` is asked for, from arguments to recipes."""

from dlmo.strategy.options import Options
from dlmo.strategy.study import study_job


def test_one_name_is_as_good_as_a_list_of_one():
    one = study_job("digits", "vgg", "NQ,FIQ", "resnet8 > prune > int8", None, Options())
    several = study_job("digits", ["vgg"], ["NQ", "FIQ"], ["resnet8 > prune > int8"], None, Options())
    assert one.command == several.command
    assert list(map(str, one.recipes_for(0))) == ["vgg > float32", "vgg > int8", "resnet8 > prune > int8"]

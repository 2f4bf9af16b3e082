from dlmo.cli import main

main()

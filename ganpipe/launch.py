"""Starts and stops the processes that train and evaluate, and leaves no orphan.

(contract; the implementation follows)

    result = run_child("ganpipe.train.process", request, settings)      # in a flow, or on the command line
    if __name__ == "__main__": child_main(train)                        # at the end of ganpipe/train/process.py
"""

package child

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// parentVariable makes of the test a parent that waits to be killed.
const parentVariable = "SEALANE_TEST_PARENT"

// The main thread does not end: parent keeps it.
func init() {
	if os.Getenv(parentVariable) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(parentVariable) != "" {
		err := parent()
		if err == nil {
			_, err = io.Copy(io.Discard, os.Stdin) // which ends with the test
		}
		fmt.Fprintln(os.Stderr, "not killed:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// parent has a child that was started on behalf of a thread which is gone, and says
// which.
func parent() error {
	cmd := exec.Command("/bin/sleep", "1000")
	var thread int
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever, and so it ends with this goroutine
		thread = syscall.Gettid()
		done <- Start(cmd)
	}()
	if err := <-done; err != nil {
		return err
	}
	for {
		_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", thread))
		if errors.Is(err, os.ErrNotExist) {
			fmt.Println(cmd.Process.Pid)
			return nil
		}
		if err != nil {
			return err
		}
		runtime.Gosched()
	}
}

// A child outlives the thread that asked for it, and not the process.
func TestEndsWithItsParent(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), parentVariable+"=1")
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := Start(cmd); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, malformed := strconv.Atoi(strings.TrimSpace(line))
	if err := errors.Join(err, malformed); err != nil {
		t.Fatal(err)
	}
	if !alive(pid) {
		t.Error("the child ended with the thread")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the parent was not killed")
	}
	for deadline := time.Now().Add(30 * time.Second); alive(pid); {
		if time.Now().After(deadline) {
			t.Fatal("the child outlives its parent")
		}
		runtime.Gosched()
	}
}

// alive tells whether a process has not ended; nobody may have asked how it did.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}
